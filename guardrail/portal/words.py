"""What the public pages say, in English and in Chinese, and the ladder of sanctions in words."""

from __future__ import annotations

from guardrail.core.sanctions import DAY, HOUR, Ladder

WORDS: dict[str, dict[str, str]] = {
    "appeal.title": {"en": "A refused request", "zh": "被拒绝的请求"},
    "appeal.what": {"en": "What happened", "zh": "发生了什么"},
    "appeal.incident": {"en": "Incident", "zh": "事件编号"},
    "appeal.at": {"en": "Time", "zh": "时间"},
    "appeal.where": {"en": "Found in", "zh": "所在位置"},
    "appeal.prompt": {"en": "your request", "zh": "您的请求"},
    "appeal.completion": {"en": "the answer to your request", "zh": "对您请求的回答"},
    "appeal.done": {"en": "What we did", "zh": "处理方式"},
    "appeal.strike": {"en": "Counts towards sanctions", "zh": "是否计入违规次数"},
    "appeal.yes": {"en": "yes", "zh": "是"},
    "appeal.no": {"en": "no", "zh": "否"},
    "appeal.private": {
        "en": "What was written is kept sealed and is not shown here.",
        "zh": "原文加密保存，不在此显示。",
    },
    "appeal.rules": {"en": "The rules it was held to go against", "zh": "被认定违反的规则"},
    "appeal.unnamed": {"en": "This rule is no longer in force.", "zh": "该规则现已不再适用。"},
    "appeal.standing": {"en": "What is in force", "zh": "当前处置"},
    "appeal.until": {"en": "Until {until}.", "zh": "截止时间：{until}。"},
    "appeal.no_end": {"en": "Until a person ends it.", "zh": "须经人工解除。"},
    "appeal.form": {"en": "Appeal", "zh": "申诉"},
    "appeal.say": {
        "en": "Say why this was wrong (4,000 characters at most). A person reads it and decides. It is kept sealed.",
        "zh": "请说明您认为处理有误的理由（不超过4000字）。由人工阅读并作出决定，内容加密保存。",
    },
    "appeal.send": {"en": "File the appeal", "zh": "提交申诉"},
    "appeal.filed": {"en": "An appeal was filed.", "zh": "已提交申诉。"},
    "appeal.ticket": {"en": "See where it stands", "zh": "查看处理进度"},
    "appeal.spent": {
        "en": "The appeals against this incident have been decided; no more can be filed.",
        "zh": "针对该事件的申诉均已处理完毕，不能再次提交。",
    },
    "ticket.title": {"en": "Your appeal", "zh": "您的申诉"},
    "ticket.id": {"en": "Ticket", "zh": "受理编号"},
    "ticket.at": {"en": "Filed", "zh": "提交时间"},
    "ticket.state": {"en": "State", "zh": "状态"},
    "ticket.decided_at": {"en": "Decided", "zh": "决定时间"},
    "ticket.reason": {"en": "Reason", "zh": "理由"},
    "ticket.filed": {"en": "Open: a person has still to decide.", "zh": "处理中：等待人工决定。"},
    "ticket.granted": {
        "en": "Granted. We are sorry: the strike is void, and what rested on it has been undone.",
        "zh": "申诉成立。我们深表歉意：该次违规记录已作废，由此产生的处置已撤销。",
    },
    "ticket.denied": {"en": "Denied.", "zh": "申诉不成立。"},
    "ticket.keep": {
        "en": "Keep the address of this page: it is the only way back to it, and opens it to whoever has it.",
        "zh": "请保存本页地址：这是返回本页的唯一途径，持有者均可打开。",
    },
    "ticket.incident": {"en": "The incident", "zh": "相关事件"},
    "step.none": {"en": "Nothing.", "zh": "无。"},
    "step.warn": {"en": "A warning. Requests are served as usual.", "zh": "警告，请求照常处理。"},
    "step.limit": {"en": "Requests are limited.", "zh": "请求频率受限。"},
    "step.suspend": {"en": "The account is suspended.", "zh": "账号已暂停使用。"},
    "step.terminate": {"en": "The account is closed.", "zh": "账号已关闭。"},
    "action.allow": {"en": "let it pass", "zh": "放行"},
    "action.flag": {"en": "let it pass and noted it", "zh": "放行并记录"},
    "action.redact": {"en": "took the passage out", "zh": "遮盖相关内容"},
    "action.answer": {"en": "gave a safe answer instead", "zh": "改以安全回答代替"},
    "action.block": {"en": "refused it", "zh": "拒绝处理"},
    "severity.low": {"en": "low", "zh": "低"},
    "severity.medium": {"en": "medium", "zh": "中"},
    "severity.high": {"en": "high", "zh": "高"},
    "severity.critical": {"en": "critical", "zh": "严重"},
    "rules.title": {"en": "The rules of this service", "zh": "本服务的使用规则"},
    "rules.by": {"en": "Offered by {provider}.", "zh": "服务提供者：{provider}。"},
    "rules.own": {"en": "The provider's own rules", "zh": "服务提供者的使用规则"},
    "rules.enforced": {"en": "What is screened for", "zh": "检查内容"},
    "rules.none": {"en": "No rule is enforced at present.", "zh": "目前没有强制执行的规则。"},
    "rules.category": {"en": "Category", "zh": "类别"},
    "rules.because": {"en": "Why", "zh": "说明"},
    "rules.action": {"en": "What we do", "zh": "处理方式"},
    "rules.severity": {"en": "Severity", "zh": "程度"},
    "rules.articles": {"en": "Based on", "zh": "依据"},
    "rules.counts": {"en": "counts towards sanctions", "zh": "计入违规次数"},
    "rules.ladder": {"en": "What follows from refused requests", "zh": "违规处置"},
    "rules.appeal": {"en": "How to appeal", "zh": "如何申诉"},
    "rules.appeal_how": {
        "en": "Every refusal holds a link of its own (appeal_url). It shows what happened and takes an appeal, also "
        "while an account is suspended or closed. A person decides. If the appeal is granted, the strike is void and "
        "what rested on it is undone; the record of it is kept.",
        "zh": "每次拒绝都附有专属链接（appeal_url），可查看情况并提交申诉；账号被暂停或关闭期间同样可用。"
        "申诉由人工决定。申诉成立的，该次违规记录作废，由此产生的处置予以撤销，相关记录予以保留。",
    },
    "about.title": {"en": "About this service", "zh": "关于本服务"},
    "about.provider": {"en": "Provider", "zh": "服务提供者"},
    "about.unnamed": {"en": "not named by the operator", "zh": "运营者未填写"},
    "about.code": {"en": "Provider's code", "zh": "服务提供者编码"},
    "about.profile": {"en": "Profile", "zh": "适用配置"},
    "about.ai": {"en": "Answers are made by AI", "zh": "回答由人工智能生成"},
    "about.ai_text": {
        "en": "The answers of this service are generated by an artificial intelligence model. They may be wrong; check "
        "what matters. Requests and answers are screened against the rules of this service.",
        "zh": "本服务的回答由人工智能模型生成，可能有误，重要内容请自行核实。请求与回答均按本服务的使用规则进行检查。",
    },
    "about.labels": {"en": "How they are labelled", "zh": "标识方式"},
    "about.label_visible": {
        "en": "Text answers carry the visible label “{label}” at their {place}. It is left out where it would spoil "
        "what it marks (code, data for programs); there the app shows it.",
        "zh": "文本回答在{place}附有显式标识“{label}”。代码及供程序读取的数据等无法附加标识之处，由应用自行展示。",
    },
    "about.label_app": {
        "en": "The app you use is given the label “{label}” to show beside an answer.",
        "zh": "标识文字“{label}”随回答提供给您使用的应用，由其展示。",
    },
    "about.label_headers": {
        "en": "Every answer also carries an implicit label in its metadata (header AIGC, and the member guardrail of "
        "JSON answers), which holds the provider's code and the answer's number.",
        "zh": "每个回答还在元数据中附有隐式标识（AIGC响应头及JSON回答中的guardrail字段），"
        "包含服务提供者编码和内容编号。",
    },
    "about.label_member": {
        "en": "JSON answers also carry an implicit label in their metadata (the member guardrail), which holds the "
        "provider's code and the answer's number.",
        "zh": "JSON回答的元数据中附有隐式标识（guardrail字段），包含服务提供者编码和内容编号。",
    },
    "about.label_keep": {
        "en": "Do not remove, alter, forge or hide these labels.",
        "zh": "请勿删除、篡改、伪造或隐匿上述标识。",
    },
    "about.place.start": {"en": "start", "zh": "开头"},
    "about.place.end": {"en": "end", "zh": "末尾"},
    "about.complain": {"en": "Complaints and appeals", "zh": "投诉与申诉"},
    "about.authority": {
        "en": "You may also report to the authorities: the reporting centre for illegal and harmful information of the "
        "Cyberspace Administration of China, telephone 12377, www.12377.cn.",
        "zh": "您也可以向主管部门举报：中央网信办违法和不良信息举报中心，电话12377，网址www.12377.cn。",
    },
    "problem.title": {"en": "This cannot be shown", "zh": "无法显示"},
    "problem.not_found": {
        "en": "There is nothing at this address, or the link is incomplete. Use the whole link of the refusal.",
        "zh": "该地址没有内容，或链接不完整。请使用拒绝信息中的完整链接。",
    },
    "problem.too_many_requests": {
        "en": "Too many requests from your address. Try again in a moment.",
        "zh": "来自您所在地址的请求过多，请稍后再试。",
    },
    "problem.too_large": {
        "en": "Too long. Expected 65,536 bytes at most, with a statement of 4,000 characters at most.",
        "zh": "内容过长。全文不超过65536字节，申诉理由不超过4000字。",
    },
    "problem.unsupported": {
        "en": "Expected application/json or application/x-www-form-urlencoded in UTF-8, not compressed.",
        "zh": "仅接受未压缩的UTF-8编码application/json或application/x-www-form-urlencoded。",
    },
    "problem.malformed": {
        "en": "Expected incident, capability and statement: three texts, each given once.",
        "zh": "需要且仅需要incident、capability和statement三项文本。",
    },
    "problem.statement": {
        "en": "Expected a statement of 1 to 4,000 characters.",
        "zh": "申诉理由须为1至4000字。",
    },
    "problem.too_many": {
        "en": "The appeals against this incident have been decided; no more can be filed.",
        "zh": "针对该事件的申诉均已处理完毕，不能再次提交。",
    },
    "problem.unavailable": {
        "en": "Records cannot be read or written just now. Nothing was filed; try again in a moment.",
        "zh": "当前无法读写记录，内容未提交，请稍后再试。",
    },
    "nav.rules": {"en": "Rules", "zh": "使用规则"},
    "nav.about": {"en": "About this service", "zh": "关于本服务"},
}


def word(key: str, lang: str, /, **values: str) -> str:
    """A sentence in a language, with values in its places. The values are text: the page that shows it escapes them."""
    return WORDS[key][lang].format(**values) if values else WORDS[key][lang]


def duration(seconds: float, lang: str) -> str:
    """A span of time as people say it: `24 hours`, `3 days`."""
    for size, en, zh in ((DAY, "day", "天"), (HOUR, "hour", "小时"), (60.0, "minute", "分钟"), (1.0, "second", "秒")):
        number = seconds / size
        # A day is said as 24 hours, since it is counted so and not by the calendar.
        if number >= 1 and number == int(number) and not (size == DAY and number == 1):
            return f"{int(number)}{zh}" if lang == "zh" else f"{int(number)} {en}{'s' if number != 1 else ''}"
    return f"{seconds:g}秒" if lang == "zh" else f"{seconds:g} seconds"


def ladder_words(ladder: Ladder, lang: str) -> list[str]:
    """The ladder of sanctions, a sentence for each step, with the numbers that are in force."""

    def span(seconds: float) -> str:
        return duration(seconds, lang)

    spans = [span(seconds) for seconds in ladder.suspend_seconds]
    if lang == "zh":
        said = [
            "违反计入违规次数的规则而被拒绝的请求，记为一次违规。放行一次请求后，连续次数清零；"
            + ("当日次数按24小时滚动计算。" if ladder.day_offset is None else "当日次数按自然日计算。"),
            f"一日内违规{ladder.warn_day}次：警告，持续{span(ladder.warn_seconds)}。",
            f"连续{ladder.limit_row}次或一日内{ladder.limit_day}次：每{span(ladder.limit_interval)}仅处理一次请求，"
            f"持续{span(ladder.limit_seconds)}。",
            f"连续{ladder.suspend_row}次或一日内{ladder.suspend_day}次：暂停使用，时长依次为{'、'.join(spans)}。",
        ]
        number = f"{ladder.terminate_days:g}天内第{ladder.terminate_suspensions}次暂停"
        said.append(
            f"{number}：可由人工决定关闭账号。"
            if ladder.terminate_by_person
            else f"{number}：关闭账号，仅可由人工解除。"
        )
        said.append("多人共用的密钥或地址最多受限，不会被暂停使用。")
        return said
    said = [
        "A request that is refused by a rule that counts is a strike. A request that is served ends a row of strikes; "
        + ("a day is the last 24 hours." if ladder.day_offset is None else "a day is a calendar day."),
        f"{_times(ladder.warn_day)} in a day: a warning, for {span(ladder.warn_seconds)}.",
        f"{_times(ladder.limit_row)} in a row, or {ladder.limit_day} in a day: one request every "
        f"{span(ladder.limit_interval)}, for {span(ladder.limit_seconds)}.",
        f"{_times(ladder.suspend_row)} in a row, or {ladder.suspend_day} in a day: the account is suspended, "
        f"for {', then '.join(spans)}.",
    ]
    number = f"Suspension number {ladder.terminate_suspensions} within {ladder.terminate_days:g} days"
    said.append(
        f"{number}: a person may close the account."
        if ladder.terminate_by_person
        else f"{number}: the account is closed, until a person opens it again."
    )
    said.append("A key or address that many people share is limited at most, never suspended.")
    return said


def _times(number: int) -> str:
    return f"{number} strike{'s' if number != 1 else ''}"
