"""`genrec` and `python -m genrec`."""


def main() -> None:
    """Run the command line."""
    try:
        from genrec.cli.app import app

        app()
    except KeyboardInterrupt:  # before the first command has begun
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
