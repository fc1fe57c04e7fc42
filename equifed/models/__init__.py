"""Models of the literature on federated learning, with the numbers of parameters that
are reported for them.

Each is an Equinox module that is called on ONE example, `model(image, key=key)`, and
uses the layers of `equifed.nn`. Images are `(height, width, channels)`, of
floating-point numbers.
"""

from ._bert import Bert as Bert, BertClassifier as BertClassifier
from ._bert_config import BertConfig as BertConfig
from ._conv_net import ConvNet as ConvNet
from ._dense import LogisticRegression as LogisticRegression, MLP as MLP
from ._gguf_tokenizer import gguf_tokenizer as gguf_tokenizer
from ._language import LanguageLSTM as LanguageLSTM
from ._language_transformer import LanguageTransformer as LanguageTransformer
from ._le_net import LeNet5 as LeNet5
from ._llama import Llama as Llama
from ._llama_config import LlamaConfig as LlamaConfig
from ._res_net import ResNet as ResNet
from ._toy import ToyRegression as ToyRegression
from ._vit import ViT as ViT
