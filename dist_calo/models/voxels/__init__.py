"""Models of showers on a voxel grid."""
