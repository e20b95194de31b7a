"""The paper's evaluation: LSE-D and LSE-C, FID, pairs of audio and video, videos for them, one table."""
