from .chat_template_check import (
    CONVERSATIONS as CONVERSATIONS,
)
from .chat_template_check import (
    VERDICTS as VERDICTS,
)
from .chat_template_check import (
    ChatTemplateCheck as ChatTemplateCheck,
)
from .chat_template_check import (
    Verdict as Verdict,
)
from .chat_template_check import (
    compare_rendering as compare_rendering,
)
from .experiment import (
    SLICES as SLICES,
)
from .experiment import (
    EvaluatedCase as EvaluatedCase,
)
from .experiment import (
    EvaluationCase as EvaluationCase,
)
from .experiment import (
    Experiment as Experiment,
)
from .experiment import (
    SupportsRecommend as SupportsRecommend,
)
from .history_order import check_order as check_order
from .intervals import (
    RESAMPLES as RESAMPLES,
)
from .intervals import (
    Interval as Interval,
)
from .intervals import (
    difference_interval as difference_interval,
)
from .intervals import (
    mean_interval as mean_interval,
)
from .intervals import (
    parity as parity,
)
from .intervals import (
    randomisation_test as randomisation_test,
)
from .leakage import Leakage as Leakage
from .leakage import find_leakage as find_leakage
from .metrics import (
    accuracy as accuracy,
)
from .metrics import (
    coverage as coverage,
)
from .metrics import (
    diversity as diversity,
)
from .metrics import (
    gini as gini,
)
from .metrics import (
    length_bias as length_bias,
)
from .metrics import (
    metric_cutoff as metric_cutoff,
)
from .metrics import (
    novelty as novelty,
)
from .metrics import (
    popularity_lift as popularity_lift,
)
from .model_check import ModelCheck as ModelCheck
from .model_check import SingleTokens as SingleTokens
from .model_check import WholePaths as WholePaths
from .protocols import leave_one_out as leave_one_out
from .protocols import next_basket as next_basket
from .protocols import random_hold_out as random_hold_out
from .protocols import temporal_split as temporal_split
from .summary import (
    MetricRow as MetricRow,
)
from .summary import (
    defect_share_row as defect_share_row,
)
from .summary import (
    summarise as summarise,
)
from .summary import (
    user_groups as user_groups,
)
