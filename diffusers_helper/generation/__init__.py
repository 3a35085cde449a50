"""From a request and pictures to files: encode, plan, sample, write."""
