"""A small GAN of showers at normal incidence, which learns on a laptop."""
