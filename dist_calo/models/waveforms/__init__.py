"""Models of detectors read out as waveforms."""
