"""One message for two readers: the command line's options, and the arguments of a public function."""

import pytest

from vdu.core.errors import InputError
from vdu.core.python_names import as_command, in_python, names_arguments


def unlearn(*, forget_class=None, overwrite=False, resume=False, folder=None, **options):
    raise InputError("--forget-class: got x, or --overwrite")


def test_options_become_the_arguments_that_the_function_has():
    def evaluate(*, held_out=None): ...

    assert in_python("--held-out or --n-images (--held-out)", evaluate) == "held_out or --n-images (held_out)"
    assert in_python("--output-dir, --resume-from-checkpoint latest", unlearn) == "folder, resume=True latest"


def test_options_of_methods_are_keywords_and_those_of_commands_alone_are_left():
    assert in_python("--learning-rate 1e-4, --dry-run", unlearn) == "learning_rate 1e-4, --dry-run"


def test_commands_to_type_are_left():
    text = "run `vdu unlearn --forget-class 8` or a--forget-class"
    assert in_python(text, unlearn) == text


def test_an_error_is_rewritten_once_unless_a_command_called():
    public = names_arguments(unlearn)
    with pytest.raises(InputError, match="^forget_class: got x, or overwrite=True$"):
        public()
    with as_command(), pytest.raises(InputError, match="^--forget-class: got x, or --overwrite$"):
        public()
    with pytest.raises(InputError, match="^forget_class"):
        public()
