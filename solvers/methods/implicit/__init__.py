"""Implicit Runge-Kutta methods: tableaus that prove themselves, and steps that solve their equations."""
