# mypy: ignore-errors
"""Compiled kernels of the trie and of item vectors; their numpy twins in `genrec.index.kernels.numpy` document them.

numba infers the types, compiles at the first call, and caches the result beside this file or in the user's cache.
"""

from functools import partial

import numpy as np

from genrec.index.kernels.int8 import compile_kernel

START_BLOCK = 64  # as in numpy.py; not imported, because numba recompiles only when this file changes
_GATHER_ROWS = 4096
_CACHE_BLOCK_ROWS = (
    64  # item vectors that stay in the processor's cache while users, four at a time, are multiplied with them
)

_jit = compile_kernel


@_jit
def _copy(source, begin, stop, target, into):
    # A loop over a slice has no negative index, so numba vectorises the copy.
    left, right = target[into : into + stop - begin], source[begin:stop]
    for step in range(len(left)):
        left[step] = right[step]


@_jit
def _min_of(values):
    least = values[0]
    for value in values:
        least = min(least, value)
    return least


@_jit
def pack_keys(tokens, offsets, rows, depth, count, bits, end):
    keys = np.zeros(len(rows), dtype=np.uint64)
    for position in range(len(rows)):
        row = rows[position]
        begin, stop = offsets[row] + depth, offsets[row + 1]
        key = np.uint64(0)
        for step in range(count):
            key = key << np.uint64(bits)
            if begin + step < stop:
                key |= np.uint64(tokens[begin + step]) + np.uint64(end)
        keys[position] = key
    return keys


@_jit
def _row_range(offsets, length, row):
    # Rows of equal length do not need `offsets`, which would miss the cache once a row.
    if length:
        return row * length, (row + 1) * length
    return offsets[row], offsets[row + 1]


@_jit
def front_code(tokens, offsets, order, shared, tails, stored):
    longest, shortest = 0, offsets[-1]
    for row in range(len(order)):
        size = offsets[row + 1] - offsets[row]
        longest, shortest = max(longest, size), min(shortest, size)
    length = longest if longest == shortest else 0
    # Rows are gathered in chunks before they are compared, so that the processor can fetch many at once.
    buffer = np.empty(_GATHER_ROWS * longest, dtype=tokens.dtype)
    before = np.empty(longest, dtype=tokens.dtype)
    filled, end = 0, 0
    for chunk in range(0, len(order), _GATHER_ROWS):
        last = min(chunk + _GATHER_ROWS, len(order))
        read = 0
        for row in order[chunk:last]:
            source, stop = _row_range(offsets, length, row)
            _copy(tokens, source, stop, buffer, read)
            read += stop - source
        begin = 0
        for position in range(chunk, last):
            source, stop = _row_range(offsets, length, order[position])
            size, same = stop - source, 0
            here = buffer[begin : begin + size]
            limit = min(end, size)
            while same < limit and before[same] == here[same]:
                same += 1
            if position and same == limit:
                return -position
            shared[position] = same
            tails[position] = size - same
            _copy(here, same, size, before, same)
            _copy(here, same, size, stored, filled)
            filled += size - same
            begin += size
            end = size
    return filled


@_jit
def _bisect(values, begin, stop, wanted):
    while begin < stop:
        middle = (begin + stop) // 2
        if values[middle] < wanted:
            begin = middle + 1
        else:
            stop = middle
    return begin


@_jit
def _find_wide(wide_low, wide_high, low, high):
    position = _bisect(wide_low, 0, len(wide_low), low)
    while wide_high[position] != high:
        position += 1
    return position


@_jit
def _row_start(tails, starts, row):
    start = starts[row // START_BLOCK]
    for before in range(row // START_BLOCK * START_BLOCK, row):
        start += np.int64(tails[before])
    return start


@_jit
def row_starts(tails, starts, rows):
    found = np.empty(len(rows), dtype=np.int64)
    for position in range(len(rows)):
        found[position] = _row_start(tails, starts, rows[position])
    return found


# The tokens of `rows`, one row after the other; the tokens of rows[r] end at stops[r]. See `TokenTrie.tokens_of_rows`.
@_jit
def tokens_of_rows(
    shared, tails, starts, tokens, wide_low, wide_high, wide_depth, wide_first, wide_child, wide_token, limit, rows,
    stops,
):  # fmt: skip
    flat = np.empty(stops[-1], dtype=tokens.dtype)
    above = np.empty(len(wide_low) + 1, dtype=np.int64)
    for position in range(len(rows)):
        row = rows[position]
        # The wide nodes above the row. All rows between a wide node's first row and the child that contains this row
        # share more tokens than are still missing there, so the walk back skips them.
        low, high, skips = 0, len(shared), 0
        while high - low > limit:
            above[skips] = low
            skips += 1
            node = _find_wide(wide_low, wide_high, low, high)
            begin, stop = wide_first[node], wide_first[node + 1]
            child = _bisect(wide_child, begin, stop, row + 1) - 1
            low, high = np.int64(wide_child[child]), np.int64(wide_child[child + 1]) if child + 1 < stop else high
        into = stops[position] - np.int64(shared[row]) - np.int64(tails[row])
        size, source = np.int64(shared[row]) + np.int64(tails[row]), row
        while size > 0:
            begin = np.int64(shared[source])
            if begin < size:
                start = _row_start(tails, starts, source)
                for step in range(begin, size):
                    flat[into + step] = tokens[start + step - begin]
                size = begin
            source -= 1
            while skips and source < low:
                skips -= 1
                low = above[skips]
                source = min(source, low)
    return flat


@_jit
def node_depths(shared, tails, wide_low, wide_high, wide_depth, limit, low, high):
    depths = np.empty(len(low), dtype=np.int64)
    for node in range(len(low)):
        begin, stop = low[node], high[node]
        if stop - begin == 1:
            depths[node] = np.int64(shared[begin]) + np.int64(tails[begin])
        elif stop - begin > limit:
            depths[node] = wide_depth[_find_wide(wide_low, wide_high, begin, stop)]
        else:
            depths[node] = _min_of(shared[begin + 1 : stop])
    return depths


@_jit
def expand_nodes(
    shared, tails, starts, tokens, wide_low, wide_high, wide_depth, wide_first, wide_child, wide_token, limit, low,
    high, max_depths,
):  # fmt: skip
    count = len(low)
    depths = np.empty(count, dtype=np.int64)
    known = np.empty(count, dtype=np.int64)
    offsets = np.zeros(count + 1, dtype=np.int64)
    for node in range(count):
        begin, stop = low[node], high[node]
        known[node] = -1
        children = 1
        if stop - begin == 1:
            depth = np.int64(shared[begin]) + np.int64(tails[begin])
            children = 1 if len(max_depths) and max_depths[node] < depth else 0
        elif stop - begin > limit:
            position = _find_wide(wide_low, wide_high, begin, stop)
            depth = wide_depth[position]
            if not len(max_depths) or max_depths[node] >= depth:
                known[node] = position
                children = wide_first[position + 1] - wide_first[position]
        else:
            inner = shared[begin + 1 : stop]
            least = _min_of(inner)
            depth = np.int64(least)
            if not len(max_depths) or max_depths[node] >= depth:
                for common in inner:
                    children += common == least
        depths[node] = min(depth, max_depths[node]) if len(max_depths) else depth
        offsets[node + 1] = offsets[node] + children
    total = offsets[count]
    child_low = np.empty(total + 1, dtype=np.int32)
    first = np.empty(total + 1, dtype=tokens.dtype)
    for node in range(count):
        begin, stop, depth, into = low[node], high[node], depths[node], offsets[node]
        size = offsets[node + 1] - into
        if not size:
            continue
        if known[node] >= 0:
            source = wide_first[known[node]]
            _copy(wide_child, source, source + size, child_low, into)
            _copy(wide_token, source, source + size, first, into)
        else:
            start = _row_start(tails, starts, begin)
            child_low[into] = begin
            first[into] = tokens[start + depth - np.int64(shared[begin])]
            last = stop if size > 1 else begin + 1
            inner, before = shared[begin + 1 : last], tails[begin : last - 1]
            position = into + 1
            # Every row is written and overwritten by the next one if it begins no child: a branch would cost more.
            for step in range(len(inner)):
                start += np.int64(before[step])
                child_low[position] = begin + 1 + step
                first[position] = tokens[start]
                position += inner[step] == depth
    return depths, offsets, child_low[:total], first[:total]


@_jit
def gather(matrix, tokens, offsets):
    found = np.empty(len(tokens), dtype=matrix.dtype)
    for row in range(len(offsets) - 1):
        for position in range(offsets[row], offsets[row + 1]):
            found[position] = matrix[row, tokens[position]]
    return found


@_jit
def _append_children(low, first, begin, stop, end, out_low, out_high, out_first, kept):
    # Keep children `begin` to `stop`; row `end` follows the last of them.
    size = stop - begin
    if size:
        _copy(low, begin, stop, out_low, kept)
        _copy(first, begin, stop, out_first, kept)
        _copy(low, begin + 1, stop, out_high, kept)
        out_high[kept + size - 1] = end
    return kept + size


@_jit
def _filter_by_denylist(low, first, begin, stop, end, listed, out_low, out_high, out_first, kept):
    # Only children with a listed row can be removed, and only if all their rows are listed.
    at, child = 0, begin
    while at < len(listed):
        here = _bisect(low, child, stop, listed[at] + 1) - 1
        top = np.int64(low[here + 1]) if here + 1 < stop else end
        beyond = _bisect(listed, at, len(listed), top)
        if beyond - at == top - np.int64(low[here]):
            kept = _append_children(low, first, child, here, np.int64(low[here]), out_low, out_high, out_first, kept)
            child = here + 1
        at = beyond
    return _append_children(low, first, child, stop, end, out_low, out_high, out_first, kept)


@_jit
def _filter_by_mask(low, first, begin, stop, end, prefix_counts, out_low, out_high, out_first, kept):
    bottom = low[begin]
    before = prefix_counts[bottom]
    for child in range(begin, stop):
        top = low[child + 1] if child + 1 < stop else end
        after = prefix_counts[top]
        # Written in any case: a child that is not kept is overwritten by the next one.
        out_low[kept], out_high[kept], out_first[kept] = bottom, top, first[child]
        kept += after > before
        bottom, before = top, after
    return kept


@_jit
def _filter_by_counts(
    low, first, begin, stop, end, listed, prefix_counts, is_allowlist, out_low, out_high, out_first, kept
):
    counted, at = np.int64(prefix_counts[low[begin]]) if len(prefix_counts) else 0, 0
    for child in range(begin, stop):
        bottom = low[child]
        top = low[child + 1] if child + 1 < stop else end
        left = np.int64(top) - np.int64(bottom)
        if len(prefix_counts):
            after = np.int64(prefix_counts[top])
            left = after - counted
            counted = after
        named = 0
        if at < len(listed) and listed[at] < top:
            beyond = _bisect(listed, at + 1, len(listed), top)
            named = beyond - at
            at = beyond
        # Written in any case, as above.
        out_low[kept], out_high[kept], out_first[kept] = bottom, top, first[child]
        kept += named > 0 if is_allowlist else left > named
    return kept


@_jit
def filter_children(
    offsets, low, tokens, node_high, prompt_indices, listed, listed_offsets, is_allowlist, prefix_counts
):
    out_low, out_high = np.empty(len(low), dtype=np.int32), np.empty(len(low), dtype=np.int32)
    out_first = np.empty(len(low), dtype=tokens.dtype)
    kept, begin = 0, 0
    for node in range(len(prompt_indices)):
        stop, end, prompt = offsets[node + 1], node_high[node], prompt_indices[node]
        near, far = listed_offsets[prompt], listed_offsets[prompt + 1]
        if begin < stop:
            if near < far:
                near = _bisect(listed, near, far, low[begin])
                far = _bisect(listed, near, far, end)
            prompt_listed = listed[near:far]
            if len(prefix_counts) and not len(prompt_listed) and not is_allowlist[prompt]:
                kept = _filter_by_mask(low, tokens, begin, stop, end, prefix_counts, out_low, out_high, out_first, kept)
            elif is_allowlist[prompt] or len(prefix_counts):
                kept = _filter_by_counts(
                    low, tokens, begin, stop, end, prompt_listed, prefix_counts, is_allowlist[prompt],
                    out_low, out_high, out_first, kept,
                )  # fmt: skip
            else:
                kept = _filter_by_denylist(
                    low, tokens, begin, stop, end, prompt_listed, out_low, out_high, out_first, kept
                )
        begin = stop
        offsets[node + 1] = kept
    return out_low[:kept], out_high[:kept], out_first[:kept]


# Write the rows of two tries in order, without `removed_rows`; `row` and `new_row` are buffers for one row of each.
# Returns the number of rows and of tokens written; or, if two rows conflict, -1 minus the old row, and the new row. See
# `TokenTrie.merge`.
@_jit
def merge(
    shared, tails, tokens, items, removed_rows, new_shared, new_tails, new_tokens, new_items,
    out_shared, out_tails, out_tokens, out_items, row, new_row,
):  # fmt: skip
    # `same` and `new_same` are how many tokens the next old and the next new row share with the last written row; the
    # row that shares more comes first. Old rows that stay unchanged form a run, from `run` on, and are copied at once.
    # After removed rows, `row` holds the tokens that the next old row shared only with them, from `same` on.
    rows, new_rows, skipped = len(items), len(new_items), 0
    at, read, same, run, run_read = 0, 0, 0, 0, 0
    new_at, new_read, new_size, new_same, loaded = 0, 0, 0, 0, False
    written, filled = 0, 0
    while True:
        leave = skipped < len(removed_rows) and removed_rows[skipped] == at
        if not leave and not loaded and new_at < new_rows:
            new_same = np.int64(new_shared[new_at])
            new_size = new_same + np.int64(new_tails[new_at])
            _copy(new_tokens, new_read, new_read + new_size - new_same, new_row, new_same)
            new_read += new_size - new_same
            loaded = True
        limit = new_same if loaded else -1
        front = np.int64(shared[at]) if at < rows else 0
        if not leave and at < rows and same == front and same >= limit:
            stop, begin = removed_rows[skipped] if skipped < len(removed_rows) else rows, at
            if not loaded:
                for size in tails[at:stop]:
                    read += np.int64(size)
                at = stop
            else:
                wanted = new_row[new_same]
                while at < stop:
                    depth = np.int64(shared[at])
                    if depth < limit or (depth == limit and tokens[read] >= wanted):
                        break
                    read += np.int64(tails[at])
                    at += 1
            if at > begin:
                same = np.int64(shared[at]) if at < rows else 0
                continue
        size = front + np.int64(tails[at]) if at < rows else 0
        older, common = at < rows, 0
        if older and loaded and not leave:
            common = min(same, new_same)
            older = same > new_same
            if same == new_same:
                while common < size and common < new_size:
                    token = row[common] if common < front else tokens[read + common - front]
                    if token != new_row[common]:
                        older = token < new_row[common]
                        break
                    common += 1
                if common == size or common == new_size:
                    return -1 - at, new_at
        if older and same == front and not leave:
            read += size - front
            at += 1
            new_same = common
            same = np.int64(shared[at]) if at < rows else 0
            continue
        _copy(shared, run, at, out_shared, written)
        _copy(tails, run, at, out_tails, written)
        _copy(items, run, at, out_items, written)
        _copy(tokens, run_read, read, out_tokens, filled)
        written += at - run
        filled += read - run_read
        if leave:
            _copy(tokens, read, read + size - front, row, front)
            skipped += 1
        elif older:
            out_shared[written], out_tails[written], out_items[written] = same, size - same, items[at]
            for step in range(same, size):
                out_tokens[filled] = row[step] if step < front else tokens[read + step - front]
                filled += 1
            written += 1
            new_same = common
        elif loaded:
            out_shared[written], out_tails[written], out_items[written] = (
                new_same,
                new_size - new_same,
                new_items[new_at],
            )
            _copy(new_row, new_same, new_size, out_tokens, filled)
            filled += new_size - new_same
            written += 1
            new_at, loaded, same = new_at + 1, False, common
        else:
            return written, filled
        if leave or older:
            read += size - front
            at += 1
            after = np.int64(shared[at]) if at < rows else 0
            same = min(same, after) if leave else after
        run, run_read = at, read


# Sums may be reordered, so that they are vectorised; no other rule of arithmetic is relaxed.
_jit_fastmath = partial(compile_kernel, fastmath={"reassoc", "contract", "nsz"})


@_jit_fastmath
def inner_products(vectors, users, products):
    width, whole = vectors.shape[1], len(users) // 4 * 4
    for first in range(0, len(vectors), _CACHE_BLOCK_ROWS):
        rows = range(first, min(first + _CACHE_BLOCK_ROWS, len(vectors)))
        for user in range(0, whole, 4):
            p, q, r, s = users[user], users[user + 1], users[user + 2], users[user + 3]
            for row in rows:
                vector = vectors[row]
                a = b = c = d = 0.0
                for step in range(width):
                    value = np.float64(vector[step])
                    a += value * p[step]
                    b += value * q[step]
                    c += value * r[step]
                    d += value * s[step]
                products[user, row], products[user + 1, row] = a, b
                products[user + 2, row], products[user + 3, row] = c, d
        for user in range(whole, len(users)):
            p = users[user]
            for row in rows:
                vector = vectors[row]
                a = 0.0
                for step in range(width):
                    a += np.float64(vector[step]) * p[step]
                products[user, row] = a


@_jit
def _ranks_below(scores, rows, one, other):
    return scores[one] < scores[other] or (scores[one] == scores[other] and rows[one] > rows[other])


@_jit
def _sift_down(scores, rows, heap_size, position):
    # A binary heap with the lowest-ranked entry at the root.
    while True:
        last = position
        for child in (2 * position + 1, 2 * position + 2):
            if child < heap_size and _ranks_below(scores, rows, child, last):
                last = child
        if last == position:
            return
        scores[position], scores[last] = scores[last], scores[position]
        rows[position], rows[last] = rows[last], rows[position]
        position = last


@_jit
def _heap_push(scores, rows, heap_size, score, row):
    # Rows are pushed in ascending order, so a row that ties with the lowest entry is not added.
    if heap_size == len(rows):
        if score > scores[0]:
            scores[0], rows[0] = score, row
            _sift_down(scores, rows, heap_size, 0)
        return heap_size
    scores[heap_size], rows[heap_size] = score, row
    if heap_size + 1 == len(rows):
        for position in range(len(rows) // 2, -1, -1):
            _sift_down(scores, rows, len(rows), position)
    return heap_size + 1


@_jit
def _is_allowed(row, is_rankable, prefix_counts, listed):
    if not is_rankable[row] or (len(prefix_counts) and prefix_counts[row] == prefix_counts[row + 1]):
        return False
    at = _bisect(listed, 0, len(listed), row)
    return at == len(listed) or listed[at] != row


@_jit
def _top_k(approximate, error, vectors, user, is_rankable, prefix_counts, listed, rows, scores):
    exact = np.empty((1, 1), dtype=np.float32)
    held, least = 0, -np.inf
    for row in range(len(approximate)):
        if (held < len(rows) or approximate[row] > scores[0]) and _is_allowed(row, is_rankable, prefix_counts, listed):
            held = _heap_push(scores, rows, held, approximate[row], row)
    if held == len(rows):
        least = np.inf
        for row in rows:
            inner_products(vectors[row : row + 1], user, exact)
            least = min(least, exact[0, 0])
    # At least k rows reach `least`, so a row further below it than the error cannot be in the list.
    held, compared = 0, 0
    for row in range(len(approximate)):
        if approximate[row] >= least - error and _is_allowed(row, is_rankable, prefix_counts, listed):
            inner_products(vectors[row : row + 1], user, exact)
            held = _heap_push(scores, rows, held, exact[0, 0], row)
            compared += 1
    if held < len(rows):
        for position in range(held // 2, -1, -1):
            _sift_down(scores, rows, held, position)
    for size in range(held - 1, 0, -1):
        scores[0], scores[size] = scores[size], scores[0]
        rows[0], rows[size] = rows[size], rows[0]
        _sift_down(scores, rows, size, 0)
    return held, compared


# Compiled only. The rows of highest inner product for each of U users, best first, ties in row order, into `rows` and
# `scores` [U, k], of which each user has space for `list_sizes[u]`. `approximate` are all products up to an error of
# `errors[u]`. Rows in `listed[listed_offsets[u] : listed_offsets[u + 1]]`, rows that are not rankable and rows that the
# mask excludes are omitted. Writes the sizes of the lists, and for how many rows the exact product was computed.
@_jit
def top_k(
    approximate,
    errors,
    vectors,
    users,
    is_rankable,
    prefix_counts,
    listed,
    listed_offsets,
    rows,
    scores,
    list_sizes,
    compared,
):
    for user in range(len(users)):
        size = list_sizes[user]
        if size:
            list_sizes[user], compared[user] = _top_k(
                approximate[user], errors[user], vectors, users[user : user + 1], is_rankable, prefix_counts,
                listed[listed_offsets[user] : listed_offsets[user + 1]], rows[user, :size], scores[user, :size],
            )  # fmt: skip


@_jit_fastmath
def sum_rows(vectors, rows, offsets, weights, sums):
    sums[:] = 0
    for user in range(len(sums)):
        total = sums[user]
        for position in range(offsets[user], offsets[user + 1]):
            vector, weight = vectors[rows[position]], weights[position]
            for step in range(len(total)):
                total[step] += weight * vector[step]
