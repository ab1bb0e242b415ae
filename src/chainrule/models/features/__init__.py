"""Features of tokens for conditional random fields: from sentences to sparse matrices (token, attribute).

An *attribute* is a yes-or-no or real-valued fact about a position of a sentence, such as "the word before is *the*". A
linear-chain CRF gives every pair of an attribute and a label a weight (Lafferty, McCallum & Pereira 2001),

    log p(y | x) = Σ_t [ Σ_a x_{t,a} · w_{a, y_t}  +  Σ_b z_{t,b} · v_{b, y_{t−1}, y_t} ]  −  log Z(x),

and this package makes x (tokens × *node* attributes) and z (tokens × *pair* attributes) from what users write:

- `templates("U00:%x[0,0]", …)`: CRF++'s windows over the columns of the tokens;
- `attributes()`: tokens that already are dicts or lists of names, as for CRFsuite; `attributes(extract)`: made on the way.

Both `learn` from the training sentences, in one pass, an index of the attributes that occur, and the training matrices;
`index.matrices(sentences)` then reads other sentences, without the attributes that training has not seen. All of it is
NumPy on the host.
"""

from .base import AbstractFeature
from .corpus import Matrices
from .dense import DenseFeature, dense
from .functions import FunctionFeature, feature_function
from .named_attributes import AttributeIndex, Attributes, NameTable, attributes
from .networks import NeuralFeature, neural_feature
from .seen import SeenPairs, seen_pairs
from .segments import begins, ends, segment_attributes, segment_dense, segment_function
from .sparse import SparseFeature
from .window_templates import TemplateIndex, Templates, TemplateTable, templates
from .words import prefix, shape, suffix, window

__all__ = [
    "AbstractFeature",
    "AttributeIndex",
    "Attributes",
    "DenseFeature",
    "FunctionFeature",
    "Matrices",
    "NameTable",
    "NeuralFeature",
    "SeenPairs",
    "SparseFeature",
    "TemplateIndex",
    "TemplateTable",
    "Templates",
    "attributes",
    "begins",
    "dense",
    "ends",
    "feature_function",
    "neural_feature",
    "prefix",
    "seen_pairs",
    "segment_attributes",
    "segment_dense",
    "segment_function",
    "shape",
    "suffix",
    "templates",
    "window",
]
