"""Other libraries on files as genrec reads them: python eval/speed/open_peers.py LIBRARY EVENTS.csv USERS.

`implicit` and `rectools` read the events with pandas, fit the cosine similarities of items to their 20 nearest
neighbours, and list 10 items for each of the first USERS people, without the items they have. Imports nothing of
genrec, because RecTools needs an environment of its own.
"""

import sys
from typing import Any

import numpy as np
import pandas as pd

NEIGHBOURS, LIST_LENGTH = 20, 10


def main() -> None:
    """Print the number of lines that were listed."""
    library, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    events = pd.read_csv(path)
    print({"implicit": list_with_implicit, "rectools": list_with_rectools}[library](events, count))


def list_with_implicit(events: pd.DataFrame, count: int) -> int:
    """The number of listed items."""
    from implicit.nearest_neighbours import CosineRecommender
    from scipy import sparse

    users, _ = pd.factorize(events["user_id"])
    items, names = pd.factorize(events["item_id"])
    seen = sparse.csr_matrix((np.ones(len(events)), (users, items)), shape=(users.max() + 1, len(names)))
    model = CosineRecommender(K=NEIGHBOURS)
    model.fit(seen, show_progress=False)
    chosen = np.arange(min(count, seen.shape[0]))
    listed, _ = model.recommend(chosen, seen[chosen], N=LIST_LENGTH)
    return int((listed >= 0).sum())


def list_with_rectools(events: pd.DataFrame, count: int) -> int:
    """The number of listed items."""
    from implicit.nearest_neighbours import CosineRecommender
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import ImplicitItemKNNWrapperModel

    renamed = events.rename(columns={"user_id": Columns.User, "item_id": Columns.Item, "timestamp": Columns.Datetime})
    renamed[Columns.Weight], renamed[Columns.Datetime] = 1.0, pd.to_datetime(renamed[Columns.Datetime], unit="s")
    dataset = Dataset.construct(renamed)
    model: Any = ImplicitItemKNNWrapperModel(CosineRecommender(K=NEIGHBOURS))
    model.fit(dataset)
    chosen = renamed[Columns.User].unique()[:count]
    return len(model.recommend(chosen, dataset, k=LIST_LENGTH, filter_viewed=True))


if __name__ == "__main__":
    main()
