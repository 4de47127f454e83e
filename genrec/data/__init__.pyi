from .catalog import Catalog as Catalog
from .catalog import read_catalog as read_catalog
from .interactions import Interactions as Interactions
from .interactions import read_interactions as read_interactions
from .subset import Boost as Boost
from .subset import Mask as Mask
from .subset import Subset as Subset
