"""Small GAN of showers at normal incidence, which trains on a laptop."""
