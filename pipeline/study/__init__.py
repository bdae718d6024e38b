"""What every package may use: params.yaml as objects, errors that users see, whole files.

Nothing here decides a result.
"""
