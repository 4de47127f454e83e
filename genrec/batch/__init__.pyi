from .generate import GenerateTask as GenerateTask
from .prompts import SamplingParams as SamplingParams
from .prompts import TemplatePromptBuilder as TemplatePromptBuilder
from .recommend import RecommendTask as RecommendTask
from .run import BatchRun as BatchRun
from .run import RunStatus as RunStatus
from .run import start_run as start_run
