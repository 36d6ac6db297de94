"""From a folder of photos and somebody's annotations to a run that can be trained."""
