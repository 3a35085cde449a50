"""The menu of presets in a real browser: save, load, delete, bring back, begin with one, and a reload in between."""

import pytest
from playwright.sync_api import expect

from tests.browsing import fill, keeps

pytestmark = pytest.mark.browser


def seconds(tab):
    return tab.locator("#seconds input[type=number]")


def menu(tab):
    return tab.locator("#preset input")


def choose(tab, name):
    menu(tab).click()
    tab.get_by_role("option", name=name, exact=True).click()


def unfold(tab):
    tab.get_by_text("Save, delete, begin with a preset").click()
    expect(tab.locator("#preset-name input, #preset-name textarea")).to_be_visible()


def save(tab, name):
    tab.locator("#preset-name input, #preset-name textarea").fill(name)
    tab.locator("#preset-save").click()
    expect(tab.locator("#preset-message")).to_contain_text(f"“{name}” is saved.")


def test_saved_loaded_deleted_and_brought_back(user, server):
    tab = user.open()
    fill(tab, "A lion roars.")
    seconds(tab).fill("3")
    seconds(tab).blur()
    unfold(tab)
    save(tab, "Night <b>")
    seconds(tab).fill("7")
    seconds(tab).blur()
    keeps(tab, seconds=7)
    tab.reload()
    expect(seconds(tab)).to_have_value("7")
    choose(tab, "Night <b>")
    expect(seconds(tab)).to_have_value("3")
    expect(tab.locator("#prompt textarea")).to_have_value("A lion roars.")
    unfold(tab)
    tab.locator("#preset-delete").click()
    expect(tab.locator("#preset-message")).to_contain_text("“Night <b>” is deleted.")
    expect(menu(tab)).to_have_value("")
    tab.locator("#preset-undo").click()
    expect(menu(tab)).to_have_value("Night <b>")
    expect(tab.locator("#preset-undo")).to_be_hidden()
    keeps(tab, seconds=3)
    tab.reload()
    expect(seconds(tab)).to_have_value("3")
    choose(tab, "Quick look")
    expect(seconds(tab)).to_have_value("2.4")
    expect(tab.locator("#preset-message")).to_contain_text("“Quick look” is in the form.")
    tab.locator("#preset-delete").or_(tab.get_by_text("Save, delete, begin with a preset")).first.click()
    tab.locator("#preset-delete").click()
    expect(tab.locator("#preset-message [role=alert]")).to_contain_text("comes along with the program and stays")


def test_a_new_tab_begins_with_the_chosen_one_and_a_reload_keeps_what_was_typed(user, server):
    tab = user.open()
    choose(tab, "Long walk")
    expect(seconds(tab)).to_have_value("12")
    unfold(tab)
    expect(tab.locator("#preset-message")).to_contain_text("is in the form.")
    tab.get_by_label("Begin with the chosen one in every new tab").check()
    expect(tab.locator("#preset-message")).to_have_text("")  # the server has heard it
    expect(tab.get_by_label("Begin with the chosen one in every new tab")).to_be_checked()
    seconds(tab).fill("4")
    seconds(tab).blur()
    keeps(tab, seconds=4)
    tab.reload()
    expect(menu(tab)).to_have_value("")
    expect(seconds(tab)).to_have_value("4")
    other = user.open()
    expect(menu(other)).to_have_value("Long walk")
    expect(seconds(other)).to_have_value("12")
    unfold(other)
    expect(other.locator("#preset-message")).to_contain_text("is in the form.")
    other.get_by_label("Begin with the chosen one in every new tab").uncheck()
    expect(other.locator("#preset-message")).to_have_text("")
    keeps(other, seconds=12)
    third = user.open()
    expect(seconds(third)).to_have_value("12")
    expect(menu(third)).to_have_value("")


def test_the_prompt_and_the_seed_are_kept_where_they_are_asked_for(user, server):
    tab = user.open()
    fill(tab, "A tiger sleeps.")
    unfold(tab)
    tab.locator("#preset-asked").get_by_label("The prompt").check()
    save(tab, "Tiger")
    tab.locator("#prompt textarea").fill("Something else")
    keeps(tab, prompt="Something else")
    tab.reload()
    expect(tab.locator("#prompt textarea")).to_have_value("Something else")
    choose(tab, "Tiger")
    keeps(tab, prompt="A tiger sleeps.")
    tab.reload()
    expect(tab.locator("#prompt textarea")).to_have_value("A tiger sleeps.")  # the draft has it
