from .processor import CatalogLogitsProcessor as CatalogLogitsProcessor
from .registry import CATALOGS_ENV as CATALOGS_ENV
from .tensor_trie import TensorAllowedBatch as TensorAllowedBatch
from .tensor_trie import TensorTrie as TensorTrie
