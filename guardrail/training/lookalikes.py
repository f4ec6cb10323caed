"""What writers put in a character's place to get past a filter, as tables: forms that look like it, and its parts.

Forms that Unicode itself calls compatible are found in the standard library's character data (NFKC, UAX #15); what only
looks alike, the parts of Han characters and the traditional forms are short tables of our own: common characters, and
those that sensitive words are made of.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache

HIDDEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
"""Zero-width characters and the soft hyphen: a reader sees nothing of them."""

SEPARATORS = (" ", " ", "  ", ".", "-", "_", "*", "·", "、", "/", "|", "\u3000")
"""What is put between the letters of a word; a space twice, as it is the most usual."""

LEET: Mapping[str, str] = {
    "a": "4@", "b": "8", "e": "3", "g": "9", "i": "1!", "l": "1|", "o": "0", "s": "5$", "t": "7+", "z": "2",
}  # fmt: skip
"""Digits and signs that stand for letters."""

LOOKALIKES: Mapping[str, str] = {
    "a": "аα", "c": "сϲ", "d": "ԁ", "e": "е", "h": "һ", "i": "іι", "j": "јϳ", "k": "κ", "n": "ո", "o": "оο", "p": "рρ",
    "q": "ԛ", "s": "ѕ", "t": "τ", "u": "υս", "v": "ѵν", "w": "ԝω", "x": "хχ", "y": "уγ",
    "A": "АΑ", "B": "ВΒ", "C": "СϹ", "E": "ЕΕ", "H": "НΗ", "I": "ІΙ", "J": "Ј", "K": "КΚ", "M": "МΜ", "N": "Ν",
    "O": "ОΟ", "P": "РΡ", "S": "Ѕ", "T": "ТΤ", "X": "ХΧ", "Y": "УΥ", "Z": "Ζ",
}  # fmt: skip
"""Cyrillic, Greek and Armenian letters that most fonts draw as they draw these Latin ones."""

_PARTS = """
明日月 好女子 林木木 炸火乍 弹弓单 枪木仓 赌贝者 骗马扁 死歹匕 法氵去 轮车仑 操扌喿 强弓虽 奸女干 你亻尔 他亻也
她女也 们亻门 和禾口 的白勺 吗口马 吃口乞 作亻乍 做亻故 体亻本 时日寸 话讠舌 说讠兑 请讠青 让讠上 认讠人 识讠只
课讠果 谁讠隹 诈讠乍 打扌丁 找扌戈 给纟合 红纟工 结纟吉 城土成 地土也 妈女马 妹女未 姐女且 如女口 种禾中 秘禾必
钟钅中 铁钅失 饭饣反 江氵工 河氵可 海氵每 汉氵又 清氵青 政正攵 放方攵 教孝攵 故古攵 样木羊 村木寸 材木才 机木几
树木对 校木交 根木艮 眼目艮 睡目垂 路足各 跑足包 球王求 现王见 理王里 玩王元 珠王朱 功工力 动云力 助且力 加力口
别另刂 到至刂 刚冈刂 利禾刂 知矢口 呢口尼 吧口巴 听口斤 唱口昌 喝口曷 味口未 哪口那 啊口阿 快忄夬 情忄青 怕忄白
慢忄曼 性忄生 恨忄艮 煤火某 灯火丁 烧火尧 烟火因 炮火包 爆火暴 燃火然 奶女乃 嫖女票 娼女昌 贩贝反 贱贝戋 财贝才
购贝勾 败贝攵 姓女生 始女台 嫁女家 歼歹千 残歹戋 砍石欠 破石皮 码石马 砸石匝 礼礻乚 社礻土 神礻申 祸礻呙 被衤皮
补衤卜 伤亻力 仇亻九 付亻寸 何亻可 住亻主 使亻吏 信亻言 偷亻俞 债亻责 伪亻为 假亻叚 侮亻每 借亻昔 值亻直 杀乂木
粉米分 粗米且 精米青 糟米曹 胖月半 肥月巴 脏月庄 胁月办 腿月退 脱月兑 肚月土 脑月凶 殴区殳 队阝人 阴阝月 阳阝日
防阝方 陪阝咅 隐阝急 院阝完 狗犭句 独犭虫 狂犭王 猪犭者 猎犭昔 狠犭艮 犯犭巳 钱钅戋 银钅艮 错钅昔 锁钅肖 针钅十
钓钅勺 铜钅同 镜钅竟 鸡又鸟 鸭甲鸟 难又隹 劝又力 欢又欠 双又又 对又寸 观又见 戏又戈 叔尗又
"""

_TRADITIONAL = """
国國 说說 这這 个個 们們 来來 为為 会會 对對 时時 过過 发發 后後 学學 东東 车車 长長 门門 问問 间間 见見 现現
电電 话話 请請 谢謝 语語 读讀 书書 写寫 买買 卖賣 钱錢 银銀 铁鐵 错錯 马馬 鸟鳥 鱼魚 龙龍 飞飛 风風 云雲 气氣
热熱 爱愛 妈媽 爷爺 儿兒 孙孫 亲親 医醫 药藥 杀殺 枪槍 弹彈 战戰 军軍 敌敵 乱亂 赌賭 骗騙 诈詐 贩販 强強 奸姦
盗盜 窃竊 骂罵 贱賤 胁脅 吓嚇 伤傷 报報 复復 仇讎 制製 贷貸 债債 财財 贿賄 赂賂 赃贓 贪貪 贫貧 贵貴 费費 资資
赚賺 输輸 转轉 轮輪 软軟 轻輕 较較 边邊 达達 进進 远遠 连連 运運 还還 选選 递遞 遗遺 邮郵 乡鄉 邻鄰 酱醬 释釋
里裡 鉴鑒 针針 钉釘 钟鐘 钢鋼 锁鎖 锅鍋 键鍵 镜鏡 闭閉 闹鬧 闻聞 队隊 阳陽 阴陰 阶階 际際 陆陸 险險 隐隱 难難
雾霧 静靜 韩韓 页頁 顶頂 项項 顺順 须須 顾顧 顿頓 预預 领領 频頻 题題 颜顏 愿願 饭飯 饮飲 饿餓 馆館 驱驅 驶駛
驾駕 验驗 骑騎 脏髒 鲜鮮 鸡雞 鸭鴨 鸣鳴 麦麥 黄黃 齐齊 齿齒 龄齡 龟龜 与與 专專 业業 丛叢 丝絲 两兩 严嚴 丧喪
临臨 丽麗 举舉 义義 乐樂 习習 争爭 亏虧 产產 亿億 仅僅 从從 仓倉 仪儀 价價 众眾 优優 伙夥 传傳 伟偉 伪偽 体體
余餘 侦偵 侧側 侨僑 俩倆 偿償 储儲 党黨 兰蘭 关關 兴興 养養 兽獸 内內 册冊 农農 冲衝 决決 况況 冻凍 净淨 凉涼
减減 几幾 凤鳳 凭憑 击擊 刘劉 则則 刚剛 创創 删刪 别別 剂劑 剑劍 剧劇 劝勸 办辦 务務 动動 励勵 劲勁 劳勞 势勢
勋勳 区區 协協 单單 卢盧 卫衛 却卻 厂廠 厅廳 历歷 厉厲 压壓 厌厭 县縣 参參 双雙 变變 叙敘 号號 叹嘆 吗嗎 吴吳
听聽 启啟 员員 响響 哑啞 唤喚 啸嘯 喷噴 团團 园園 围圍 图圖 圆圓 圣聖 场場 坏壞 块塊 坚堅 坛壇 坟墳 坠墜 垒壘
垫墊 声聲 壳殼 处處 备備 头頭 夹夾 夺奪 奋奮 奖獎 妇婦 娱娛 婴嬰 宁寧 宝寶 实實 审審 宪憲 宽寬 宾賓 寻尋 导導
将將 尔爾 尘塵 尝嘗 层層 属屬 岁歲 岛島 币幣 师師 帐帳 带帶 帮幫 广廣 庄莊 庆慶 应應 库庫 庙廟 废廢 开開 异異
弃棄 张張 弯彎 归歸 当當 录錄 彻徹 径徑 忆憶 忧憂 怀懷 态態 怜憐 总總 恋戀 恶惡 恼惱 悬懸 惊驚 惧懼 惨慘 惩懲
惯慣 愤憤 戏戲 户戶 扑撲 执執 扩擴 扫掃 扬揚 抚撫 抛拋 抢搶 护護 担擔 拟擬 拥擁 拦攔 择擇 挂掛 挡擋 挣掙 挤擠
挥揮 损損 换換 据據 掷擲 携攜 摄攝 摆擺 摇搖 撑撐 敛斂 数數 斗鬥 斩斬 断斷 无無 旧舊 显顯 晓曉 暂暫 术術 机機
权權 条條 杨楊 极極 构構 标標 栋棟 树樹 样樣 桥橋 档檔 检檢 楼樓 欢歡 欧歐 毁毀 毕畢 汇匯 汉漢 汤湯 沟溝 沪滬
泪淚 泽澤 洁潔 浅淺 测測 济濟 浓濃 涛濤 润潤 涨漲 湾灣 湿濕 满滿 滚滾 滞滯 滥濫 灭滅 灯燈 灵靈 灾災 炉爐 点點
炼煉 烂爛 烟煙 烦煩 烧燒 烬燼 牺犧 状狀 犹猶 狱獄 独獨 猎獵 猪豬 献獻 玛瑪 环環 疗療 疯瘋 痒癢 盐鹽 监監 盖蓋
盘盤 着著 码碼 确確 礼禮 祸禍 种種 积積 称稱 稳穩 穷窮 笔筆 签簽 简簡 类類 粮糧 紧緊 纠糾 红紅 约約 级級 纪紀
纯純 纲綱 纳納 纵縱 纷紛 纸紙 纹紋 线線 练練 组組 细細 织織 终終 绍紹 经經 绑綁 结結 绕繞 给給 络絡 绝絕 统統
继繼 绩績 续續 维維 绿綠 编編 缓緩 缘緣 缩縮 网網 罗羅 罚罰 职職 联聯 肃肅 肠腸 肤膚 肿腫 胆膽 胜勝 脑腦 脚腳
脸臉 艺藝 节節 苏蘇 苹蘋 荐薦 获獲 营營 萨薩 蓝藍 虑慮 虚虛 虽雖 蚁蟻 蛮蠻 补補 装裝 觉覺 规規 视視 览覽 触觸
计計 订訂 讨討 让讓 训訓 议議 讯訊 记記 讲講 许許 论論 设設 访訪 证證 评評 识識 诉訴 词詞 译譯 试試 诗詩 诚誠
诛誅 详詳 诬誣 误誤 诱誘 谁誰 调調 谅諒 谈談 谋謀 谎謊 谣謠 谱譜 贝貝 负負 贡貢 责責 贤賢 账賬 货貨 质質 购購
贸貿 贺賀 赏賞 赔賠 赛賽 赞讚 赶趕 跃躍 踪蹤 辆輛 辉輝 辑輯 辞辭 辩辯 迁遷 违違 迟遲 适適
"""


@cache
def parts() -> Mapping[str, str]:
    """Han characters and the parts that stand side by side in them, as they are typed in their place."""
    return {entry[0]: entry[1:] for entry in _PARTS.split()}


@cache
def traditional() -> Mapping[str, str]:
    """Simplified Han characters and the traditional form that is most often meant."""
    return {entry[0]: entry[1] for entry in _TRADITIONAL.split()}


@cache
def alphabets() -> Sequence[Mapping[str, str]]:
    """Latin alphabets that NFKC folds to ASCII (full-width, circled, mathematical ...): letter -> its form there."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for point in (*range(0x2460, 0x2500), *range(0xFF21, 0xFF5B), *range(0x1D400, 0x1D6A6), *range(0x1F130, 0x1F150)):
        letter = unicodedata.normalize("NFKC", chr(point))
        if len(letter) == 1 and letter.isascii() and letter.isalpha():
            words = unicodedata.name(chr(point)).split()[:-1]
            found[" ".join(word for word in words if word not in ("CAPITAL", "SMALL"))][letter] = chr(point)
    return [found[name] for name in sorted(found) if len(found[name]) >= 20]


@cache
def han_doubles() -> Mapping[str, str]:
    """Han characters and the code points that NFKC folds to them: Kangxi radicals, compatibility ideographs."""
    found: dict[str, str] = defaultdict(str)
    for point in (*range(0x2E80, 0x2FD6), *range(0xF900, 0xFADA)):
        folded = unicodedata.normalize("NFKC", chr(point))
        if folded != chr(point) and is_han(folded):
            found[folded] += chr(point)
    return dict(found)


def is_han(character: str) -> bool:
    """Whether `character` is a CJK unified ideograph of the basic block."""
    return "\u4e00" <= character <= "\u9fff"
