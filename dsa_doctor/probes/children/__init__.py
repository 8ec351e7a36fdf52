"""Stand-alone scripts that subprocess probes run by path; they import nothing of dsa_doctor."""
