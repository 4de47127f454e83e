"""The entry point of `genrec` and `python -m genrec`."""


def main() -> None:
    """Run the command line."""
    try:
        from genrec.cli.app import app

        app()
    except KeyboardInterrupt:  # before a command starts
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
