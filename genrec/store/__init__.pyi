from .event_store import Event as Event
from .event_store import Store as Store
from .forgetting import remaining_interactions as remaining_interactions
from .tables import USER_COLUMNS as USER_COLUMNS
