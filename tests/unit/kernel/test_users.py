# SPDX-License-Identifier: GPL-2.0-or-later
"""Names and numbers of users."""

import pytest

from crisis.errors import Usage
from crisis.kernel import users


def test_user_id():
    assert users.user_id("root") == 0 and users.user_id("4242") == 4242
    for wrong in "no-such-user", "", "-1", "1.5", "a\0b", "\u0663":
        with pytest.raises(Usage, match="no such user"):
            users.user_id(wrong)


def test_user_name():
    assert users.user_name(0) == "root" and users.user_name(3999999999) == "3999999999"
