"""The losses of other libraries, with their names, arguments and numbers, from one pass over the
logits.
"""
