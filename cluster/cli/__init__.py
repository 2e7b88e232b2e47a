"""The command line: `cluster`, and `tremula` as its alias that no other package owns."""


def main() -> None:
    """The entry point of both commands."""
    # Imported here so that `python -m cluster.cli` and the scripts share one way in.
    from cluster.cli.app import app

    app()
