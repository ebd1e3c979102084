"""Adds the amounts of a list of lines such as "bread 2.50"."""


def total(lines):
    return sum(int(float(line.split()[-1])) for line in lines)
