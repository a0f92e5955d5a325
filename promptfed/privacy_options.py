"""The options ``privacy.*``: what a run promises those whose data it learns from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from promptfed.option import Option


class PrivacyOptions(BaseModel):
    """``--set privacy.NAME=VALUE`` on the command line. Without any, a run promises nothing.

    ``noise`` without ``epsilon`` spends what it costs; ``epsilon`` without ``noise`` chooses the noise that all rounds
    can afford; with both, the run ends before it spends more than ``epsilon``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dp: Annotated[Literal["none", "client", "example"], Option("privacy", flag=False)] = Field(
        "none", description="differential privacy for a client's whole data, or for each of its examples"
    )
    epsilon: Annotated[float | None, Option("privacy", flag=False, default="no limit")] = Field(
        None, gt=0, le=1000, description="most that may be spent; the noise follows from it"
    )
    delta: Annotated[float, Option("privacy", flag=False)] = Field(
        1e-5, gt=0, lt=1, description="chance with which the promise may fail, at most 1/(2N) of N clients or examples"
    )
    noise: Annotated[float | None, Option("privacy", flag=False, default="from epsilon")] = Field(
        None, ge=0, le=1e6, description="noise multiplier: standard deviation of the noise over the clip"
    )
    clip: Annotated[Annotated[float, Field(gt=0, le=1e9)] | Literal["adaptive"], Option("privacy", flag=False)] = Field(
        1.0,
        description="largest L2 norm of a client's change, or of an example's gradient; adaptive: a quantile of them",
    )
    quantile: Annotated[float, Option("privacy", flag=False)] = Field(
        0.5, gt=0, lt=1, description="for clip=adaptive: share of the clients' changes that the clip is to leave whole"
    )
    clip_start: Annotated[float, Option("privacy", flag=False)] = Field(
        0.1, gt=0, le=1e9, description="for clip=adaptive: the clip of the first round"
    )
    clip_rate: Annotated[float, Option("privacy", flag=False)] = Field(
        0.2, gt=0, le=10, description="for clip=adaptive: how fast the clip follows the quantile"
    )
    clip_space: Annotated[Literal["parameters", "features"], Option("privacy", flag=False)] = Field(
        "parameters", description="where dp=example clips: at what is trained, or, ten times faster, at class features"
    )
    secure_aggregation: Annotated[bool | Literal["he"], Option("privacy", flag=False)] = Field(
        False, description="the server learns the sum of the clients' changes and no single one; he: by ciphertexts"
    )
    noise_at: Annotated[Literal["server", "clients"], Option("privacy", flag=False)] = Field(
        "server", description="who adds the noise of dp=client: the server, or each client a share, before a secure sum"
    )
    honest: Annotated[int | None, Option("privacy", flag=False, default="more than 2/3 of the clients")] = Field(
        None, ge=1, description="for noise_at=clients: so many honest clients in a sum suffice for the whole noise"
    )

    @model_validator(mode="after")
    def _complete(self) -> PrivacyOptions:
        if self.dp == "none" and (self.epsilon is not None or self.noise is not None):
            raise ValueError("privacy.epsilon and privacy.noise need privacy.dp: say client or example")
        usual = {name: field.default for name, field in type(self).model_fields.items()}
        if not self.protects and (self.clip, self.delta) != (usual["clip"], usual["delta"]):
            raise ValueError("privacy.clip and privacy.delta protect nobody alone: say privacy.dp=client or example")
        if self.dp != "example" and self.clip_space == "features":
            raise ValueError("privacy.clip_space=features goes with privacy.dp=example alone: leave it out")
        if self.dp != "none" and self.epsilon is None and self.noise is None:
            raise ValueError(f"privacy.dp={self.dp} needs privacy.epsilon or privacy.noise")
        return self

    @model_validator(mode="after")
    def _adapts_where_it_can(self) -> PrivacyOptions:
        usual = {name: field.default for name, field in type(self).model_fields.items()}
        names = ("quantile", "clip_start", "clip_rate")
        if self.clip != "adaptive" and any(getattr(self, name) != usual[name] for name in names):
            raise ValueError(
                "privacy.quantile, privacy.clip_start and privacy.clip_rate go with privacy.clip=adaptive: say so, or "
                "leave them out"
            )
        if self.clip == "adaptive" and self.dp != "client":
            raise ValueError(
                "privacy.clip=adaptive follows the lengths of clients' changes: it needs privacy.dp=client"
            )
        if self.clip == "adaptive" and self.secure_aggregation:
            raise ValueError(
                "privacy.clip=adaptive with privacy.secure_aggregation is not built, as clients then clip by a norm "
                "that they agreed on: say privacy.clip=C"
            )
        return self

    @model_validator(mode="after")
    def _has_sums_for_shares(self) -> PrivacyOptions:
        if self.noise_at == "server" and self.honest is not None:
            raise ValueError("privacy.honest counts clients that add noise: say privacy.noise_at=clients")
        if self.noise_at == "clients" and not (self.dp == "client" and self.secure_aggregation):
            raise ValueError(
                "privacy.noise_at=clients needs privacy.dp=client and privacy.secure_aggregation=true: a share of the "
                "noise alone hides nobody"
            )
        if self.noise_at == "clients" and self.secure_aggregation == "he":
            raise ValueError(
                "privacy.noise_at=clients needs privacy.secure_aggregation=true: with he one client that helps the "
                "server shows it every change, with no more than its share of the noise"
            )
        if self.noise_at == "clients" and self.noise == 0:
            raise ValueError("privacy.noise=0 leaves clients nothing to add: raise it, or say privacy.noise_at=server")
        return self

    @property
    def clip_norm(self) -> float:
        """The clip; of the first round, where it adapts."""
        return self.clip_start if self.clip == "adaptive" else self.clip

    @property
    def protects(self) -> bool:
        """Whether a run with these options promises anything."""
        return self.dp != "none" or bool(self.secure_aggregation)

    @property
    def needs_sums(self) -> bool:
        """Whether the server is to learn no more of a round than a sum."""
        return self.dp == "client" or bool(self.secure_aggregation)
