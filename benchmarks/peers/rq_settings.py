"""What `rq --config` reads. It imports the job, so that a forked worker finds it imported."""

import post

__all__ = ["post"]
