"""Federated sets that others publish, one a file: each is loaded, its columns checked,
and brought into the form that the papers use."""

from ._cifar import cifar10 as cifar10, cifar100 as cifar100
from ._cite import cite as cite
from ._cornell import cornell_movie_dialogs as cornell_movie_dialogs
from ._emnist import emnist as emnist, emnist_domain as emnist_domain
from ._fashion_mnist import fashion_mnist as fashion_mnist
from ._medmnist import medmnist as medmnist
from ._messages import chat_ml as chat_ml, chat_ml_messages as chat_ml_messages
from ._sent140 import sent140 as sent140
from ._shakespeare import (
    character_chunks as character_chunks,
    shakespeare as shakespeare,
)
from ._stackoverflow import stackoverflow as stackoverflow
from ._text import (
    next_words as next_words,
    padded_words as padded_words,
    word_vocabulary as word_vocabulary,
)
from ._tokens import instructions as instructions, token_chunks as token_chunks
