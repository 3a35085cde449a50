# Runs FramePack's page in the background on Windows: .\run_gradio.ps1 help. The same as run_gradio.sh, by the same program.
$ErrorActionPreference = 'Stop'
Set-Location -LiteralPath $PSScriptRoot
& cmd /c (Join-Path $PSScriptRoot 'run_gradio.bat') @args
exit $LASTEXITCODE
