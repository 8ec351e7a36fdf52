"""`python -m dsa_doctor`."""

from dsa_doctor.cli import main

if __name__ == "__main__":
    main()
