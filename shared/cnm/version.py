"""The version of this installation: every package of the workspace has the same."""

VERSION = "0.1.0"
