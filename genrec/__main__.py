"""The entry point of `genrec` and `python -m genrec`."""


def main() -> None:
    """Run the command line."""
    from genrec.cli import exit_codes

    try:
        from genrec.cli.app import app

        app()
    except KeyboardInterrupt:  # before a command starts
        raise SystemExit(exit_codes.INTERRUPTED) from None


if __name__ == "__main__":
    main()
