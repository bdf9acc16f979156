//! The command line for virtual machines, one file per verb.
