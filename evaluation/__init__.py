"""The paper's evaluation: lists of audio and video pairs, the videos made from them, LSE-D, LSE-C, FID, one table."""
