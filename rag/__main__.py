"""`python -m rag`, the command line."""

from rag.serve.cli import main

if __name__ == "__main__":
    main()
