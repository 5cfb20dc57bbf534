"""Step ``prune``: sets the least important weights to zero, in any share or in the pattern N:M."""
