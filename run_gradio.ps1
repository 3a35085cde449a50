# Runs FramePack's page in the background on Windows: .\run_gradio.ps1 help. The same as run_gradio.sh, by the same program.
$ErrorActionPreference = 'Stop'
Set-Location -LiteralPath $PSScriptRoot
# Without quotes PowerShell makes a list of 0,1; cmd /c would take quotes off a path with spaces.
$given = @($args | ForEach-Object { $_ -join ',' })
& (Join-Path $PSScriptRoot 'run_gradio.bat') @given
exit $LASTEXITCODE
