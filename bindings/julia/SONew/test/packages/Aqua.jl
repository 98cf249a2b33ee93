import Aqua
Aqua.test_all(SONew)
