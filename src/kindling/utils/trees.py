"""Nested tuples, lists and dictionaries of tensors."""

# Private, but used by many libraries and kept compatible: https://github.com/pytorch/pytorch/issues/65761
from torch.utils._pytree import SequenceKey, tree_flatten, tree_flatten_with_path, tree_leaves, tree_unflatten

__all__ = ["SequenceKey", "tree_flatten", "tree_flatten_with_path", "tree_leaves", "tree_unflatten"]
