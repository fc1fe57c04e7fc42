"""Saving a training so that it can be killed at any moment.

A checkpoint is one directory, named by its round:

    00000030/
        state/            the array leaves of the state, written by Orbax
        clients/          what all clients keep, if not on the device: `journal.py`
        leaves.json       what they are: path, dtype and shape of each
        history.json      the metrics of the rounds so far
        fingerprint.json  what the experiment is
        manifest.json     the size and checksum of every other file

It is written elsewhere and renamed when all of it is on disk, so that a directory with
a round's name was complete once; the manifest says whether it still is, and that it is
ours: nothing without one is ever touched. What is not an array (functions, sizes) is
not saved: it comes from the state that the program builds anyway, whose leaves must be
the checkpoint's. So does what is frozen of a model, of which there is a hash. While a
program saves there, it has a locked folder `.equifed`.
"""

from .checkpointer import Checkpointer as Checkpointer
