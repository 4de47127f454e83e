from .chat_template import ChatTemplateSettings as ChatTemplateSettings
from .renderer import Renderer as Renderer
from .template import Template as Template
from .template import one_line as one_line
from .template import read_template as read_template
from .tokenizer import HuggingFaceTokenizer as HuggingFaceTokenizer
from .tokenizer import Tokenizer as Tokenizer
from .tokenizer_file import copy_tokenizer as copy_tokenizer
