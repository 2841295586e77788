"""segfast's layers timed beside PyTorch's: ``segfast bench`` or ``python -m segfast.bench``.

``cases`` says what is compared, ``timing`` how, ``report`` what becomes of the numbers.
"""
