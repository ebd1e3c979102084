import unittest

from total import total


class TotalTest(unittest.TestCase):
    def test_cents_count(self):
        self.assertEqual(total(["bread 2.50", "milk 1.25"]), 3.75)


if __name__ == "__main__":
    unittest.main()
