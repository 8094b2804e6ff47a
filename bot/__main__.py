try:
    from bot.cli import main

    main()
except KeyboardInterrupt:  # before a command began
    raise SystemExit(130) from None
