"""A job while the model works on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline.candidate import Candidate
from jupyter_sc2.pipeline.job import Job
from jupyter_sc2.prompt.builder import Prompt
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.source.languages import language_at
from jupyter_sc2.types import Completion, CompletionRequest, Stats


@dataclass(eq=False)
class Generation:
    """The job that is being worked on, its prompt, the candidate that is being decoded, and what all that has cost.

    A later job that the user has typed meanwhile can take it over (`Scheduler.hand_over`), instead of beginning anew.
    """

    job: Job
    options: CompletionOptions
    prompt: Prompt | None = None
    candidate: Candidate | None = None  # while one is being decoded
    finished: list[Completion] = field(default_factory=list)  # with different texts
    diverged: bool = False  # the model writes something else than was typed meanwhile: begin anew
    reused_tokens: int = 0
    generated_tokens: int = 0
    tokens_ahead: int = 0  # decoded while nobody had requested them
    first_token_ms: float | None = None

    def cancelled(self) -> bool:
        return self.job.cancelled.is_set()

    @property
    def can_be_handed_over(self) -> bool:
        """Whether a later job may take it over at all: only ghost text, while its one candidate is decoded."""
        single = self.job.request.candidates == 1
        return self.candidate is not None and self.job.automatic and single

    def can_continue_as(self, request: CompletionRequest) -> bool:
        """Whether what is typed for `request` is what the model has written, or may still write."""
        if not self.can_be_handed_over or self.candidate is None:
            return False
        if language_at(self.job.request) != language_at(request):
            return False
        return self.candidate.is_compatible_with(request)

    def pass_to(self, later: Job) -> None:
        """Makes this the generation of a later job, which finds all of the prompt read."""
        assert self.prompt is not None
        self.job, self.reused_tokens = later, len(self.prompt.ids)
        self.generated_tokens, self.first_token_ms = 0, None

    def restart(self, options: CompletionOptions) -> None:
        """For the same job, with nothing decoded."""
        self.options, self.prompt, self.candidate = options, None, None
        self.finished, self.diverged = [], False
        self.generated_tokens, self.first_token_ms = 0, None

    @property
    def text(self) -> str:
        """What may be shown of the candidate that is being decoded."""
        return self.candidate.text if self.candidate is not None else ""

    def count_token(self) -> None:
        self.generated_tokens += 1
        self.tokens_ahead += self.job.speculative
        if self.first_token_ms is None:
            self.first_token_ms = (monotonic() - self.job.arrived) * 1000

    @property
    def stats(self) -> Stats:
        return Stats(
            prompt_tokens=len(self.prompt.ids) if self.prompt is not None else 0,
            reused_tokens=self.reused_tokens,
            generated_tokens=self.generated_tokens,
            first_token_ms=self.first_token_ms,
        )
