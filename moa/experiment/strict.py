"""What every section of the experiment file is: immutable, without unknown keys, and with numbers that are numbers."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def no_truth(value: Any) -> Any:
    """Return a value that is neither true nor false; Python takes these for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    return value


class Strict(BaseModel):
    """A section of the experiment file: unknown keys are errors, values are immutable.

    The string under a field is its meaning, and after "Source:" where its default comes from; without that the default
    is ours.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth(cls, data: Any) -> Any:
        """Refuse true and false where pydantic would read a 1 or a 0."""
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and {int, float} & {field.annotation, *get_args(field.annotation)}:
                raise ValueError(f"{name}: expected a number, not {str(value).lower()}")
        return data


def holds_response(*templates: str | None) -> None:
    """Raise where no template holds {response}: every response would get the same score."""
    if not any("{response}" in template for template in templates if template is not None):
        raise ValueError(
            f"a template must hold {{response}}, got {' and '.join(repr(t) for t in templates if t is not None)}"
        )


Seed = Annotated[int, BeforeValidator(no_truth), Field(ge=0, le=2**32 - 1)]  # numpy and Transformers take no other
Limit = Annotated[float, BeforeValidator(no_truth), Field(ge=-1e30, le=1e30)]  # a score, which float32 holds
