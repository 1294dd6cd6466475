"""Which ranks are alive, how they find each other, and how a failure ends the job."""
