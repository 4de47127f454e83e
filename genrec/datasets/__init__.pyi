from .models import find_model as find_model
from .models import get_model as get_model
from .pypi import download as download
from .registry import find_adapter as find_adapter
from .registry import find_dataset as find_dataset
from .registry import get_dataset as get_dataset
