from .adapter import inspect_adapter as inspect_adapter
from .adapter_weights import load_adapter_weights as load_adapter_weights
from .api_settings import ApiSettings as ApiSettings
from .attention import masked_attentions as masked_attentions
from .attention import use_packed_attention as use_packed_attention
from .base import (
    Backend as Backend,
)
from .base import (
    Completion as Completion,
)
from .base import (
    GenerationConstraint as GenerationConstraint,
)
from .base import (
    GenerationRequest as GenerationRequest,
)
from .base import (
    OnTokens as OnTokens,
)
from .base import (
    TextBackend as TextBackend,
)
from .base import (
    TokenTree as TokenTree,
)
from .base import (
    TokenUsage as TokenUsage,
)
from .context_length import context_length as context_length
from .encoder import SentenceEncoder as SentenceEncoder
from .growing_cache import attention_window as attention_window
from .inference import UNSUPPORTED_ERRORS as UNSUPPORTED_ERRORS
from .model_name import published_name as published_name
from .openai_api import OpenAiBackend as OpenAiBackend
from .precision import default_device as default_device
from .precision import log_probs_agree as log_probs_agree
from .precision import native_dtype as native_dtype
from .precision import probe_tokens as probe_tokens
from .pretrained import causal_model_class as causal_model_class
from .pretrained import load_pretrained as load_pretrained
from .provenance import PROVENANCE_FILE as PROVENANCE_FILE
from .provenance import Provenance as Provenance
from .provenance import TrainingSource as TrainingSource
from .provenance import file_hashes as file_hashes
from .quiet import progress_bars_disabled as progress_bars_disabled
from .token_layout import TokenLayout as TokenLayout
from .trainable_layers import trainable_layers as trainable_layers
from .transformers import TransformersBackend as TransformersBackend
from .vllm_engine import VllmEngineBackend as VllmEngineBackend
from .vllm_server import VllmServerBackend as VllmServerBackend
