"""What a request passes before the page answers it: limits, guards, sign-in, uploads; and the server."""
