import processes
import pytest


@pytest.fixture
def script(tmp_path):
    def write(text):
        path = tmp_path / "script.py"
        path.write_text(text)
        return path

    return write


def test_a_process_that_dies_fails_the_wait_with_what_it_said(script):
    process = processes.start(script=script("import sys; print('so far'); sys.exit('no such module')"))
    with pytest.raises(pytest.fail.Exception, match=r"code 1\nso far\n\nno such module"):
        processes.wait_until(lambda: False, process)


def test_a_process_that_hangs_fails_the_wait_and_is_ended(script):
    hanging = script("import time; print('so far', flush=True); time.sleep(1000)")
    process = processes.start(script=hanging)
    with pytest.raises(pytest.fail.Exception, match=r"nothing came after 0.5 s\nso far"):
        processes.wait_until(lambda: False, process, seconds=0.5)
    assert process.poll() is not None
    with pytest.raises(pytest.fail.Exception, match=r"not done after 0.1 s"):
        processes.finish(processes.start(script=hanging), seconds=0.1)


def test_what_a_process_did_last_counts(script, tmp_path):
    process = processes.start(tmp_path / "done", script=script("import sys; open(sys.argv[1], 'w')"))
    processes.wait_until((tmp_path / "done").exists, process)
    assert processes.finish(process) == ""


def test_an_error_is_shown(script):
    with pytest.raises(AssertionError, match="no such module"):
        processes.finish(processes.start(script=script("import sys; sys.exit('no such module')")))
