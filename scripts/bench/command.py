"""How the commands of this folder end."""

from collections.abc import Callable


def command(main: Callable[[], None]) -> None:
    """Run a command; a wrong folder or setting ends it with a sentence, anything else with its traceback."""
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
