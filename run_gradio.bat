@echo off
rem Runs FramePack's page in the background on Windows: run_gradio.bat help. The same as run_gradio.sh, by the same program.
setlocal
cd /d "%~dp0"
set PYTHONUTF8=1
if /i "%~1"=="stop" goto run
if /i "%~1"=="status" goto run
if /i "%~1"=="logs" goto run
if /i "%~1"=="help" goto help

set "FOUND="
if defined PYTHON set "FOUND=%PYTHON%"
if not defined FOUND if exist .venv\requirements.txt set "FOUND=.venv\Scripts\python.exe"
if not defined FOUND for %%V in (3.13 3.12 3.11) do if not defined FOUND py -%%V -c "" 2>nul && set "FOUND=py -%%V"
if not defined FOUND (
  echo Python 3.11, 3.12 or 3.13 is needed: winget install Python.Python.3.13 1>&2
  exit /b 1
)
%FOUND% -B scripts\environment.py || exit /b 1

:run
if not exist .venv\requirements.txt (
  echo FramePack is not set up here, or that is going on right now: run_gradio.bat does it and starts the page. 1>&2
  exit /b 1
)
.venv\Scripts\python.exe -m diffusers_helper.app.instances %*
exit /b %ERRORLEVEL%

:help
echo run_gradio.bat [start] [--gpus LIST] [--base-port PORT] [--f1] [options of demo_gradio.py]
echo     Starts the page in the background, on http://127.0.0.1:7860 unless told otherwise. The first time it makes the
echo     Python environment, which takes a few minutes.
echo     --gpus 0,1 starts two, the second one on port 7861; --together 0,1 starts one, whose GPUs make each video together.
echo run_gradio.bat restart, stop, status, logs [-f]
exit /b 0
